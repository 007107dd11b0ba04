"""How this process reaches others: which address may be asked, by which proxy, with which certificates."""
