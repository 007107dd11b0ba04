"""The client of Label Studio: reads projects, tasks and annotations, writes predictions. Imports
no rounds.
"""
