"""From a prompt to tokens: prefill, the decode loop, sampling, speculation. Knows no files."""
