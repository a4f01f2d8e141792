"""From text and checkpoints to IR: the language surfaces and the model builders."""
