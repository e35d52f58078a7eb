"""The processes that send requests at their due times."""
