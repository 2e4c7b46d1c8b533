"""What goes over the wire: what may be asked, what is answered, and in which forms."""
