"""Case studies with a known answer: logic gates, planted layers, and images."""
