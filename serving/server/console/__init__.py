"""The page for people on the HTTP port: its files, and the headers that browsers run them under."""
