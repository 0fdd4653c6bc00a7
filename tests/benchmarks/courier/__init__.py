"""The benchmark of the courier: its rate, how soon a notice is on its way, the cap of an endpoint, and kills."""
