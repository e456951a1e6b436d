"""Evidence that ``find_blocks`` finds every SE block of other libraries' networks, nothing else, and the right gate.

``python -m evidence.peer_networks`` prints docs/PORT_PEERS.md. ``systems`` is the table of the libraries; ``of_torch``
and ``of_keras`` read the blocks of a network from its own modules, and ``network`` compares them with the porter's.
"""
