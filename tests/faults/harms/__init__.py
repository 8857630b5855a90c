"""What is done to the content of a file: a function takes content, and gives other content and what it did."""
