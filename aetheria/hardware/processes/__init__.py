"""The processes of one run: how they start, meet, agree on a stop, and end. Knows no device."""
