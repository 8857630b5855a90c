"""The tiers: where blocks form and how they reach the device. One file per tier, one per resource they use."""
