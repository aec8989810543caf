"""The released code's demonstration files, read without trusting them."""
