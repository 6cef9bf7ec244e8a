"""What takes the place of a forward method of transformers: one file a family, and what they share.

Each function is called with the module whose forward it replaces, then with the arguments of that, of the
same names. Where it can't serve it calls the method of the module's class.
"""
