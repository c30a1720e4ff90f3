"""The machine below a process: files, locks, clocks, disks, child processes, health. Knows no study."""
