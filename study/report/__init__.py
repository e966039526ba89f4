"""The report: a study as one page that a person reads, clicks and prints."""
