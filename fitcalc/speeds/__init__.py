"""Speed: how long a step, a prompt and a queue of requests take, from the inventory that memory is counted from."""
