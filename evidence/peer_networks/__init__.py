"""Other people's networks, walked: is every SE block found, nothing else, and is its gate the one that they compute?

``python -m evidence.peer_networks`` prints docs/PORT_PEERS.md. ``systems`` is the table of who is walked; ``of_torch``
and ``of_keras`` read a network's blocks off the network itself, ``network`` compares.
"""
