"""What happens around every call, whichever door it comes through; knows no transport."""
