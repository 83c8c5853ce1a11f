"""Parts of networks: cells, distributions, compiled calls, graphs of a step."""
