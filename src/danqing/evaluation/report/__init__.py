"""What is told of an evaluation: tables, one offline page, published scores beside measured ones."""
