"""What lies in the folder of a run, and whether the run can go on."""
