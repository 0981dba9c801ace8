"""What teaching needs beside the library: examples of every operation, and wrong versions of them."""
