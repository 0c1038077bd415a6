"""Sinks: functions that hear events and tell somebody."""
