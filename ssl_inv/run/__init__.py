"""What a person asks for: commands, recipes, run folders, reports."""
