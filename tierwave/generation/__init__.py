"""From a run to sound: loading, prompts, requests, streams, vocoding."""
