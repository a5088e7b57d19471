"""What a step costs, and the methods on several processes."""
