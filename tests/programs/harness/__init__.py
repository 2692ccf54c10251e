"""What every case uses: processes, identities, ports, the recording tap, the log."""
