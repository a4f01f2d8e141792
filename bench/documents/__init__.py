"""Tables of documents from the records, by subject."""
