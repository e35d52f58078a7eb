"""The engine process's side.

served: answers the records.
reports: tells the front of models and log lines.
"""
