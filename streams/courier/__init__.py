"""The courier, who delivers notices: it reads them from the journal, and tries each endpoint until it took them."""
