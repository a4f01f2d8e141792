"""What a run did and when, and the forms in which a person looks at it."""
