"""What runs the course and no notebook imports: catalogue, execution, pages, command line."""
