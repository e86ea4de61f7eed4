"""Data sets: pictures, folders, lists and files of features; their readers, and which of their examples serve what."""
