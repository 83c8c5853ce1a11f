"""`python -m tierwave.controls`: the command line is `tierwave.control_tools`."""

import sys

from tierwave.control_tools import main

sys.exit(main())
