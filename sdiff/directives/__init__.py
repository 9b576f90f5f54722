"""What a person asks for: directives, and the job files that hold them."""
