"""What several commands share: options, prompts, output."""
