"""What every stage needs and nothing else: configuration, data folders, output files, command-line manners, checkpoints."""
