"""What is measured: each section is a module with a title and a function that gives its figures."""
