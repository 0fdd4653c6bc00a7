"""Views: how accounts, invoices and CSV cells are shown in answers. Several routes share them."""
