"""Speed: blocks and networks, ours and what a user would take instead, side by side in one process."""
