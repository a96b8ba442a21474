"""Far behind in long documents: who chooses what is shown, what looking up adds, where the wanted word stands."""
