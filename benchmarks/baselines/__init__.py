"""The same fits without modesweep, as a competent user would write them; nothing here imports modesweep."""
