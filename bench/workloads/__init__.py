"""What contenders are given: one file per kind of task, with the size of the task and fresh random inputs for it."""
