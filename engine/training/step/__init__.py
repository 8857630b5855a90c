"""The training step: of members on threads of a CPU, or of K models as one piece of work on a device."""
