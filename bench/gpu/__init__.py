"""What a GPU is needed for, measured in two halves of at most six minutes each: python -m bench.gpu first|second."""
