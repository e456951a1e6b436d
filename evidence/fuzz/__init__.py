"""Structured fuzzing of the readers: files with right lengths, checksums and directories, and hostile contents."""
