"""What people ask of a grid and a machine, answered from files: `dm2 status`, `explain` and `doctor`."""
