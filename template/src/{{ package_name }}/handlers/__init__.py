"""What happens: functions that take one message; registered in bootstrap.py. Yours."""
