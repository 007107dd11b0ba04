"""A project to take home: its labelled images, its model, and a card that says what both are."""
