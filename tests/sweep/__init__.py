"""Many deliveries of one small day, each disturbed at another point, each checked to its end."""
