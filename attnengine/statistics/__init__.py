"""The numbers: what they are called and mean, how they are added up, and how sure we are of them."""
