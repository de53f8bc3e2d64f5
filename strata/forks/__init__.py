"""What a fork must not leave to its child, and things that are known for as long as others keep them."""
