"""The machine below a process: files, locks, clocks, disks, child processes, health. Depends on no study."""
