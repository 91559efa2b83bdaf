"""What the model may call: plain typed functions; registered in bootstrap.py. Yours."""
